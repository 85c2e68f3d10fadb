//! What happens to each row, and which shard it belongs to.
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use text::corpus::split::Part;
use text::prepare::catalog::{Catalog, Hash};
use text::prepare::origins::Origins;
use text::prepare::text_files::shard_of;
use text::prepare::write::files::{Footer, WRITER};
use text::prepare::write::{RepeatedIds, ShardWritten};
use text::support::cache::key;

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is kept.
    Kept,
    /// A stage dropped it; the catalog contains the reason.
    Dropped,
    /// An earlier row has the same id, and the text does not count or is the same.
    DuplicateId,
    /// Another document has the same text: the row that is kept, and the row it was compared with.
    Exact(u32, u32),
    /// Another document has nearly the same text: the same two rows, and the bits of their similarity.
    Near(u32, u32, u64),
}

impl Verdict {
    /// Its name in `catalog.parquet`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Kept => "kept",
            Verdict::Dropped => "dropped",
            Verdict::DuplicateId => "duplicate id",
            Verdict::Exact(..) => "exact duplicate",
            Verdict::Near(..) => "near duplicate",
        }
    }
}

/// The verdicts on all rows.
pub struct Verdicts {
    /// By row of the catalog.
    pub rows: Vec<Verdict>,
    /// Pairs that were compared, by content hash, with their similarity.
    pub pairs: Vec<(Hash, Hash, f64)>,
}

impl Verdicts {
    /// Why `row` was dropped.
    pub fn reason<'a>(&self, catalog: &'a Catalog, row: usize) -> Cow<'a, str> {
        match self.rows[row] {
            Verdict::Dropped => catalog.dropped(row).unwrap_or_default().into(),
            other => other.name().into(),
        }
    }
}

/// Documents with the id of an earlier one but another text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Their number.
    pub documents: u64,
    /// Rows of the catalog: the first such document, and the earlier one with its id.
    pub example: (usize, usize),
}

/// Excludes rows before duplicates are looked for: those dropped by a stage, and those that repeat the id of an earlier
/// row, unless their text is another one and `policy` keeps them.
pub fn first_verdicts(catalog: &Catalog, policy: RepeatedIds) -> (Vec<Verdict>, Option<Repeated>) {
    // The rows of each id: its first, and the others with other texts.
    let mut ids: HashMap<&str, Vec<usize>> = HashMap::new();
    let (mut rows, mut repeated) = (Vec::with_capacity(catalog.len()), None);
    for row in 0..catalog.len() {
        if catalog.dropped(row).is_some() {
            rows.push(Verdict::Dropped);
            continue;
        }
        let earlier = ids.entry(catalog.id(row)).or_default();
        if earlier.is_empty() {
            earlier.push(row);
            rows.push(Verdict::Kept);
            continue;
        }
        let is_new = earlier.iter().all(|other| catalog.content(*other) != catalog.content(row));
        if is_new {
            let repeated = repeated.get_or_insert(Repeated { documents: 0, example: (row, earlier[0]) });
            repeated.documents += 1;
        }
        let is_kept = is_new && policy == RepeatedIds::Keep;
        if is_kept {
            earlier.push(row);
        }
        rows.push(if is_kept { Verdict::Kept } else { Verdict::DuplicateId });
    }
    (rows, repeated)
}

/// Rows of the catalog by shard.
pub struct Layout {
    /// Rows that are kept: those for training before those for validation, each sorted by id.
    pub kept: Vec<Vec<u32>>,
    /// How many of them are for training.
    train: Vec<usize>,
    /// Rows that are dropped but whose texts are stored: near-duplicates, one of which may replace the kept document in
    /// the next version, and all others if requested. Sorted by id.
    pub dropped: Vec<Vec<u32>>,
}

impl Layout {
    /// Assigns the rows of `catalog` to shards; `name`: the name of each row's verdict.
    pub fn new<'a>(catalog: &Catalog, name: impl Fn(usize) -> &'a str, shards: u32, keep_dropped: bool) -> Self {
        let empty = || vec![Vec::new(); shards as usize];
        let mut layout = Self { kept: empty(), train: Vec::new(), dropped: empty() };
        for row in 0..catalog.len() {
            let to = match name(row) {
                "kept" => &mut layout.kept,
                "near duplicate" => &mut layout.dropped,
                _ if keep_dropped => &mut layout.dropped,
                _ => continue,
            };
            to[shard_of(catalog.id(row), shards) as usize].push(row as u32);
        }
        let id = |row: &u32| (catalog.id(*row as usize), *row);
        let part = |row: &u32| catalog.part(*row as usize);
        layout.kept.iter_mut().for_each(|rows| rows.sort_by_key(|row| (part(row), id(row))));
        layout.dropped.iter_mut().for_each(|rows| rows.sort_by_key(id));
        layout.train = layout.kept.iter().map(|rows| rows.partition_point(|row| part(row) == Part::Train)).collect();
        layout
    }

    /// The files of documents that are kept, each with its part, its shard and its rows. They have the rows of `kept`, in
    /// that order.
    pub fn document_files(&self) -> impl Iterator<Item = (Part, u32, &[u32])> {
        let files = (0..).zip(&self.kept).zip(&self.train).flat_map(|((shard, rows), train)| {
            let (train, held_out) = rows.split_at(*train);
            [(Part::Train, shard, train), (Part::Validation, shard, held_out)]
        });
        files.filter(|(_, _, rows)| !rows.is_empty())
    }

    /// A key for each shard of everything that its files depend on.
    pub fn keys(&self, catalog: &Catalog, verdicts: &Verdicts, footer: &Footer) -> BTreeMap<u32, String> {
        let vocabulary = match &*catalog.origins {
            Origins::One(split) => format!("{:?} {split:?} {WRITER}", footer.vocabulary),
            Origins::Mixed(_) => format!("{:?} {WRITER}", footer.vocabulary),
        };
        let shard = |shard: u32| {
            let mut parts = vec![Cow::Borrowed(footer.configuration.as_str()), Cow::Borrowed(vocabulary.as_str())];
            for rows in [&self.kept, &self.dropped] {
                parts.push("|".into());
                for row in rows[shard as usize].iter().map(|row| *row as usize) {
                    parts.push(line(catalog, row).into());
                    parts.push(verdicts.reason(catalog, row));
                }
            }
            key(&parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>())
        };
        (0..self.kept.len() as u32).map(|number| (number, shard(number))).collect()
    }

    /// The number of tokens of every kept row: of the shards in `written`, and of those in `same`, which are unchanged
    /// since the previous version, whose layout and token counts are `previous`.
    pub fn counts(
        &self,
        written: &BTreeMap<u32, ShardWritten>,
        previous: Option<(&Layout, &[u32])>,
        same: &[u32],
    ) -> BTreeMap<u32, u32> {
        let mut counts = BTreeMap::new();
        for (shard, written) in written {
            counts.extend(self.kept[*shard as usize].iter().copied().zip(written.tokens.iter().copied()));
        }
        if let Some((layout, tokens)) = previous {
            for shard in same.iter().map(|shard| *shard as usize) {
                let rows = self.kept[shard].iter().zip(&layout.kept[shard]);
                counts.extend(rows.map(|(row, old)| (*row, tokens[*old as usize])));
            }
        }
        counts
    }
}

/// Everything that a row's columns depend on.
fn line(catalog: &Catalog, row: usize) -> String {
    let string = |name| catalog.string(name, row);
    let number = |name: &str| {
        use arrow::array::{Array, AsArray};
        let column = catalog.rows[name].as_primitive::<arrow::datatypes::UInt64Type>();
        column.is_valid(row).then(|| column.value(row))
    };
    let (strings, numbers) = (
        ["id", "url", "title", "source", "source_file"].map(string),
        ["revision", "source_offset", "row_group"].map(number),
    );
    let line = format!("{strings:?} {numbers:?} {:?}", catalog.content(row));
    match catalog.stage(row) {
        None => line,
        Some(stage) => format!("{line} {stage} {}", catalog.part(row).name()),
    }
}

//! A directory like a fresh clone in which `data/fetch-wiki.sh` has been run, but with a smaller wiki.
use crate::support::{Random, words};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

/// The configurations, and a dump where they look for one.
pub struct FreshClone(tempfile::TempDir);

impl FreshClone {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (configs, wiki) = (folder.path().join("configs"), folder.path().join("data/cache/wiki"));
        std::fs::create_dir_all(configs.join("stages")).unwrap();
        std::fs::create_dir_all(configs.join("experiments")).unwrap();
        std::fs::create_dir_all(&wiki).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(root.join("README.md"), folder.path().join("README.md")).unwrap();
        let ours = root.join("configs");
        for part in ["", "stages", "experiments"] {
            for file in std::fs::read_dir(ours.join(part)).unwrap().map(Result::unwrap) {
                if file.path().is_file() {
                    std::fs::copy(file.path(), configs.join(part).join(file.file_name())).unwrap();
                }
            }
        }
        write_bzip2(&wiki.join("testwiki.xml.bz2"), &wiki_dump());
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn pipeline(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_pipeline"))
            .args(words(arguments))
            .current_dir(self.path())
            .env("MILLRACE_CACHE", self.path().join("cache"))
            .output()
            .unwrap()
    }
}

impl FreshClone {
    /// Runs a script, for which the program is on the path.
    pub fn bash(&self, script: &str) -> Output {
        let folder = Path::new(env!("CARGO_BIN_EXE_pipeline")).parent().unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.args(["-c", script]).env("PATH", path).env("MILLRACE_CACHE", self.path().join("cache"));
        bash.current_dir(self.path()).output().unwrap()
    }
}

pub fn write_bzip2(path: &Path, content: &str) {
    let mut out = bzip2::write::BzEncoder::new(std::fs::File::create(path).unwrap(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut out, content.as_bytes()).unwrap();
    out.finish().unwrap();
}

/// 200 short articles of words that follow each other by a fixed rule.
pub fn wiki_dump() -> String {
    const WORDS: [&str; 24] = [
        "the", "river", "mill", "of", "and", "water", "wheel", "turned", "stone", "grain", "a", "in", "town", "built",
        "from", "was", "by", "old", "race", "flour", "bridge", "north", "century", "to",
    ];
    let mut xml = String::from(
        "<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.11/\" version=\"0.11\" xml:lang=\"en\">\n\
         <siteinfo><sitename>Test</sitename><dbname>testwiki</dbname></siteinfo>\n",
    );
    let mut random = Random(1);
    for page in 1..=200 {
        write!(xml, "<page><title>Mill {page}</title><ns>0</ns><id>{page}</id><revision><id>{page}</id>").unwrap();
        write!(xml, "<model>wikitext</model><format>text/x-wiki</format><text>'''Mill {page}''' ").unwrap();
        for _ in 0..150 {
            write!(xml, "{} ", WORDS[random.below(WORDS.len())]).unwrap();
        }
        xml.push_str("</text></revision></page>\n");
    }
    xml + "</mediawiki>\n"
}

"""Reads a version of a corpus with pyarrow, DuckDB and Hugging Face datasets: VERSION CACHE."""
import glob
import sys

import datasets
import duckdb
import pyarrow.parquet as parquet

version, cache = sys.argv[1:]
names = sorted(glob.glob(version + "/documents-*.parquet"))
rows = sum(parquet.read_table(name).num_rows for name in names)
# The folder as it stands is a dataset.
splits = datasets.load_dataset(version, cache_dir=cache)
for name, split in splits.items():
    assert set(split["part"]) == {name}
assert set(splits) == {"train", "validation"}
packed = datasets.load_dataset(version, "sequences", cache_dir=cache)
assert {name: set(split["part"]) for name, split in packed.items()} == {name: {name} for name in splits}
found = datasets.concatenate_datasets(splits.values())


def one(query):
    return duckdb.sql(query).fetchall()[0][0]


assert len(found) == rows > 0
assert one(f"select count(*) from '{version}/documents-*.parquet' where length(text) = bytes") == rows
assert one(f"select count(*) from '{version}/catalog.parquet' where verdict = 'kept'") == rows
tokens = sum(found["n_tokens"])
assert tokens == sum(len(ids) for ids in found["tokens"])
# Each document is followed by its end-of-text token.
assert one(f"select sum(len(tokens)) from '{version}/sequences-*.parquet'") == tokens + rows
assert parquet.read_table(version + "/duplicates.parquet").num_rows > 0
assert parquet.read_table(version + "/pairs.parquet").num_rows > 0
print("read", rows, "documents")

"""datatrove's MinHash deduplication of a Parquet file, one task: FILE WORK.

(pip install datatrove==0.10 xxhash==3.5 orjson pyarrow tokenizers spacy nltk)"""
import shutil
import sys
import time

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

file, work = sys.argv[1:]
shutil.rmtree(work, ignore_errors=True)
folder, name = file.rsplit("/", 1)
config = MinhashConfig(num_buckets=14, hashes_per_bucket=8, n_grams=5)


def reader():
    return ParquetReader(folder, glob_pattern=name)


def run(stages, tasks=1):
    began = time.monotonic()
    LocalPipelineExecutor(stages, tasks=tasks, workers=1).run()
    return time.monotonic() - began


spent = [
    run([reader(), MinhashDedupSignature(f"{work}/signatures", config=config)]),
    run([MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)], tasks=14),
    run([MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config)]),
    run([reader(), MinhashDedupFilter(f"{work}/remove"), ParquetWriter(f"{work}/kept")]),
]
print(f"signatures {spent[0]:.1f} s, buckets {spent[1]:.1f} s, clusters {spent[2]:.1f} s, filter {spent[3]:.1f} s: {sum(spent):.1f} s")

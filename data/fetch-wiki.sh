#!/bin/sh
# Downloads a small real English Wikipedia dump (106 articles, 1.7 MB) into FOLDER, data/cache by default:
#
#     data/fetch-wiki.sh [FOLDER]
#
# It is package data of gensim 4.4.0 on PyPI, which is reachable from places where dumps.wikimedia.org is not.
# Run again, it verifies the file and downloads it only if it is corrupt. Needs python3 with pip.
set -eu

folder=${1:-$(dirname "$0")/cache}
name=enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2
sha256=a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d
file=$folder/$name

python=python3
command -v "$python" >/dev/null || { echo "error: python3 with pip is needed to download from PyPI" >&2; exit 1; }

check() {
    "$python" - "$1" "$sha256" <<'PY'
import hashlib, sys
with open(sys.argv[1], "rb") as f:
    sys.exit(hashlib.sha256(f.read()).hexdigest() != sys.argv[2])
PY
}

# Source and licence of the text, which runs show.
note() {
    cat > "$folder/SOURCE.json" <<'JSON'
{
  "name": "English Wikipedia, 106 articles of the dump of May 2016",
  "url": "https://pypi.org/project/gensim/4.4.0/ (gensim/test/test_data), from https://dumps.wikimedia.org/enwiki/",
  "licence": "CC BY-SA 3.0 and GFDL",
  "attribution": "the authors of the articles, who are named in the history of each page on https://en.wikipedia.org/",
  "language": "en"
}
JSON
}

if [ -f "$file" ] && check "$file"; then
    note
    echo "$file is up to date (106 articles)"
    exit 0
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
# A wheel for any platform is enough, because only a data file in it is used.
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_24_x86_64 --dest "$work" gensim==4.4.0
"$python" - "$work" "$name" <<'PY'
import pathlib, sys, zipfile
work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as z:
    (work / name).write_bytes(z.read(f"gensim/test/test_data/{name}"))
PY
check "$work/$name" || { echo "error: $name from PyPI does not have the sha256 $sha256; it was not kept" >&2; exit 1; }
mv "$work/$name" "$file"
note
echo "$file: 206 pages, of which 106 articles and 100 redirects"
echo "licence: text of Wikipedia, CC BY-SA 3.0 and GFDL (data/SCHEMA.md)"

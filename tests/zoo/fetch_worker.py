"""Fetches the toy: INDEX HOME; writes its path."""

import sys

from ndpp_dense.zoo import Cache, Patience, load_index, resolve

if __name__ == "__main__":
    index, home = sys.argv[1:]
    sys.stdout.write(str(resolve("toy", index=load_index(index), cache=Cache(home), patience=Patience(attempts=1))))

"""``python -m ndpp_dense.cli``: the command ``ndpp`` where its script is not on the path."""

from ndpp_dense.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

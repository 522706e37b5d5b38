"""The measurements of a GPU: their parts, how those are run one after the other, and what is shown of them."""

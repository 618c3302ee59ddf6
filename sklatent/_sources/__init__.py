"""Where samples come from that are not in memory: files that are read by slices, Parquet datasets, and dask.

Each module makes `_ppca.blocks.Blocks` of them, for PCA, or an array that is read by slices, for networks. None of the
packages is imported before one of their objects comes.
"""

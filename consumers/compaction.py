"""Compaction: a full file is rewritten under its own name, its rows sorted so that one series is found without the others.

No row moves between files: readers that list the folder before and open the file after see the same rows once.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import CorruptData
from .parquet_files import METRICS_SCHEMA, write_file
from .points import Block, Label, block_of, joined
from .tenure import Tenure


def read_block(path: str, partition: int, groups: int) -> Block:
    """The rows of the first `groups` row groups of a metrics file, each page checked; CorruptData where it is damaged."""
    columns = [name for name in METRICS_SCHEMA.names if name != "partition"]
    try:
        with pq.ParquetFile(path, read_dictionary=list(Label._fields), page_checksum_verification=True) as file:
            table = file.read_row_groups(range(groups), columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise CorruptData(f"{path}: {error}", "it is left as it is and looked at again at the next start") from error
    return block_of(table, partition)


def write_compacted(tenure: Tenure, path: str, grown: Block | None, new: Block, facts: object) -> None:
    """Replaces a file by one with the rows of both blocks, sorted, a row group a series (small series share one)."""
    rows = new if grown is None else joined(grown, new)
    write_file(tenure, path, METRICS_SCHEMA, rows.sorted().groups(), facts)

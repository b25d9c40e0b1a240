"""One pass over a corpus: whatever needs the model's activations over text declares it, and is fed by the same pass."""

from caseback.stream.collect import collect as collect
from caseback.stream.collection import Collection as Collection
from caseback.stream.collection import open_collection as open_collection
from caseback.stream.documents import Document as Document
from caseback.stream.documents import documents as documents
from caseback.stream.mixing import from_model as from_model
from caseback.stream.mixing import from_store as from_store
from caseback.stream.mixing import mixed as mixed
from caseback.stream.nearest import in_common as in_common
from caseback.stream.nearest import nearest as nearest
from caseback.stream.sparse_codes import Codes as Codes
from caseback.stream.sparse_codes import open_codes as open_codes
from caseback.stream.sparse_codes import write_codes as write_codes
from caseback.stream.store import Store as Store
from caseback.stream.store import open_store as open_store
from caseback.stream.tables.registry import TABLES as TABLES
from caseback.stream.tables.registry import tables_of as tables_of
from caseback.stream.tables.table import Table as Table
from caseback.stream.vllm_files import collect_vllm as collect_vllm
from caseback.stream.vllm_files import from_vllm as from_vllm

"""Files and generators -> Dataset -> batches of Graphs."""

from .columns import INTEGERS as INTEGERS
from .columns import NUMBERS as NUMBERS
from .columns import TOKENS as TOKENS
from .dataset import Dataset as Dataset
from .dataset import build_graphs as build_graphs
from .glove import load_glove as load_glove
from .jsonl import jsonl_dataset as jsonl_dataset
from .jsonl import parse_json as parse_json
from .jsonl import read_graphs as read_graphs
from .jsonl import read_objects as read_objects
from .jsonl import to_json as to_json
from .listops import evaluate as evaluate
from .listops import generate as generate
from .listops import read_listops_tsv as read_listops_tsv
from .listops_trees import LISTOPS_VOCAB as LISTOPS_VOCAB
from .listops_trees import N_CLASSES as N_CLASSES
from .listops_trees import listops_dataset as listops_dataset
from .loader import Loader as Loader
from .ptb import PtbTree as PtbTree
from .ptb import parse_ptb_tree as parse_ptb_tree
from .ptb import ptb_dataset as ptb_dataset
from .ptb import read_ptb_trees as read_ptb_trees
from .spelling import Spelling as Spelling
from .vocab import UNKNOWN as UNKNOWN
from .vocab import Vocab as Vocab

# What users need; the rest is for other packages of tvm_cavs.
__all__ = [
    "Dataset",
    "LISTOPS_VOCAB",
    "Loader",
    "PtbTree",
    "Vocab",
    "build_graphs",
    "evaluate",
    "generate",
    "jsonl_dataset",
    "listops_dataset",
    "load_glove",
    "parse_ptb_tree",
    "ptb_dataset",
    "read_listops_tsv",
    "read_ptb_trees",
    "to_json",
]

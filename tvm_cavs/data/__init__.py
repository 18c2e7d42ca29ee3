"""Files and generators -> Dataset -> batches of Graphs."""

from tvm_cavs.data.dataset import Dataset as Dataset
from tvm_cavs.data.dataset import build_graphs as build_graphs
from tvm_cavs.data.glove import load_glove as load_glove
from tvm_cavs.data.jsonl import jsonl_dataset as jsonl_dataset
from tvm_cavs.data.listops import evaluate as evaluate
from tvm_cavs.data.listops import generate as generate
from tvm_cavs.data.listops import read_listops_tsv as read_listops_tsv
from tvm_cavs.data.listops_trees import LISTOPS_VOCAB as LISTOPS_VOCAB
from tvm_cavs.data.listops_trees import listops_dataset as listops_dataset
from tvm_cavs.data.loader import Loader as Loader
from tvm_cavs.data.ptb import PtbTree as PtbTree
from tvm_cavs.data.ptb import parse_ptb_tree as parse_ptb_tree
from tvm_cavs.data.ptb import ptb_dataset as ptb_dataset
from tvm_cavs.data.ptb import read_ptb_trees as read_ptb_trees
from tvm_cavs.data.vocab import Vocab as Vocab

"""A start for the token embeddings: tokens that share messages start out near each other.

Method: Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", 2014: a
truncated singular value decomposition of positive pointwise mutual information, here of two tokens
standing in one message. It costs seconds and saves the network its slowest lesson.

Shape suffixes: M messages, V vocabulary, D dimensions.
"""

import random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pretraining.grammar import Grammar
from pretraining.messages import compose

MESSAGES = 25_600
CHUNK = 256
RARE = 5.0
"""Pairs seen about so often count half."""
LEAST = 3
"""Tokens in fewer messages have no start of their own."""


def topical_embeddings(
    grammar: Grammar, tokenizer: Tokenizer, seed: int, dimensions: int
) -> tuple[Tensor, Tensor]:
    """Embeddings of unit variance, and which tokens have one.

    Returns:
        embedding_VD, and has_one_V of booleans; other rows of embedding_VD are zero.
    """
    rng = random.Random(seed)
    vocabulary = tokenizer.get_vocab_size()
    together_VV = torch.zeros(vocabulary, vocabulary)
    for _ in range(MESSAGES // CHUNK):
        messages = [compose(grammar, rng) for _ in range(CHUNK)]
        encoded = tokenizer.encode_batch([f"{m.subject} {m.body}" for m in messages])
        present_MV = torch.zeros(CHUNK, vocabulary)
        for row_V, encoding in zip(present_MV, encoded, strict=True):
            row_V[torch.tensor(encoding.ids)] = 1
        together_VV += present_MV.T @ present_MV
    count_V = together_VV.diagonal().clone()
    chance_VV = count_V[:, None] * count_V[None, :] / MESSAGES
    information_VV = torch.log((together_VV + 1e-9) / (chance_VV + 1e-9)).clamp(min=0)
    information_VV *= together_VV / (together_VV + RARE)
    information_VV.fill_diagonal_(0)
    has_one_V = count_V >= LEAST
    information_VV[~has_one_V] = 0
    information_VV[:, ~has_one_V] = 0
    u_VD, s_D, _ = torch.svd_lowrank(information_VV, q=dimensions, niter=4)
    embedding_VD = u_VD * s_D.sqrt()
    return embedding_VD / embedding_VD[has_one_V].std(), has_one_V

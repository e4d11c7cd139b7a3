"""The network keeps the shape that it promises, and the paper is known."""

import torch

import nsrlib


def test_the_network_enlarges_by_its_scale():
    assert nsrlib.create_model("newpaper", 3)(torch.rand(1, 3, 8, 10)).shape == (1, 3, 24, 30)


def test_the_paper_is_known():
    assert nsrlib.papers.get("newpaper").published.is_file()

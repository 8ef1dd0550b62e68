"""Tacotron 2 (Shen et al. 2018, arXiv 1712.05884): the text-to-speech job that Smart Tuner trains."""

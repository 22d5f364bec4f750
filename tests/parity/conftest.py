"""What several comparisons with reference libraries need."""

import pytest


@pytest.fixture(scope="session")
def vocabulary(needs_data):
    """CLIP's."""
    from almanac.stable_diffusion import tokenizer

    needs_data("clip_bpe")
    return tokenizer.published()

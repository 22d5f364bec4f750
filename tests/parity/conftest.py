"""What several comparisons with reference libraries need."""

import pytest


@pytest.fixture(scope="session")
def vocabulary():
    """CLIP's."""
    from almanac.runtime import hub
    from almanac.stable_diffusion import tokenizer

    if not hub.has_data("clip_bpe"):
        pytest.skip("the data set 'clip_bpe' is not on this machine (ALMANAC_DATA)")
    return tokenizer.published()

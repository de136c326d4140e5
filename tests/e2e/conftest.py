import pytest

from detrex_ext.data import shapes


@pytest.fixture(scope="session")
def shapes_data(tmp_path_factory):
    """A shapes data set of 12 training and 4 validation images."""
    root = tmp_path_factory.mktemp("shapes")
    shapes.write(root, 12, 4, 48, 0)
    return root

"""Where LIBERO's files would be."""


def get_libero_path(name):
    assert name == "bddl_files"
    return "/files"

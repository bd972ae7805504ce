"""The number of files and sockets that a process may have open (RLIMIT_NOFILE)."""

import resource

import structlog

FEW_FILES = 4_096
"""Below this the log says how many files may be open: an API process needs one for each connection."""

log = structlog.get_logger()


def raise_file_limit() -> int:
    """Raises the soft limit to the hard one, and returns the limit that holds then.

    A soft limit of 1,024 is usual, for programs that call select(2). A process may raise it without a privilege.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # macOS says "infinite" and refuses it
        log.info("the limit of open files can't be raised", files=soft, reason=str(error))
    files = open_files_max()
    if files < FEW_FILES:
        log.info("few files may be open: raise the hard limit (ulimit -Hn, LimitNOFILE)", files=files)
    else:
        log.debug("the limit of open files", files=files, files_before=soft)
    return files


def open_files_max() -> int:
    """The soft limit: how many files this process may have open."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**30 if files == resource.RLIM_INFINITY else files

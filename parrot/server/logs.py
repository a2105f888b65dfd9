"""The service's log: structured lines on the standard library's logger `parrot.server`.

Bodies, keys and values are never logged. Whoever starts the service configures structlog and the level.
"""

import logging

import structlog

logger = logging.getLogger("parrot.server")

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logger, wrapper_class=structlog.stdlib.BoundLogger)

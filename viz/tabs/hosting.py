"""What whoever runs the page sets by the environment, where a command line cannot be given, as in a Space.

SPARNET_FETCH="sparnet-hd owner/name" -> fetched when the page starts; a Hub repo is offered, too
"""

import logging
import os

from sparnet.checkpoints import MODELS
from sparnet.errors import UserError
from sparnet.fetch import fetch, terms
from viz.tabs.models import offer

log = logging.getLogger(__name__)

FETCH = "SPARNET_FETCH"  # names, as `sparnet fetch` takes them; whoever sets it accepts their licences


def fetch_models() -> None:
    """Fetch what the environment names; what cannot be had goes to the log, and the page starts without it."""
    for name in os.environ.get(FETCH, "").replace(",", " ").split():
        try:
            log.warning("%s names %s, licence: %s", FETCH, name, terms(name)["licence"])
            fetch(name)
            if name not in MODELS:
                offer(name)
        except UserError as error:
            log.error("%s: %s", FETCH, error)

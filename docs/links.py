"""A hook of mkdocs: links to the repository's own files, which the site has not, lead to the repository where
`mkdocs.yml` has a `repo_url`, and are plain text where it has none."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, config: Any, **kwargs: Any) -> str:
    home = config.repo_url
    return OUTSIDE.sub(rf"[\1]({home.rstrip('/')}/blob/main/\2)" if home else r"\1", markdown)

"""The seed's vocabulary: `components`, `operations`, `errors`. Aliases of canonical names; `docs/names.md` tells each."""

from gpt.models import components as components
from gpt.models import errors as errors
from gpt.models import operations as operations

"""`python -m api.graphql`: the schema."""

from api.graphql.schema import make_schema
from core.settings import Settings

if __name__ == "__main__":
    print(make_schema(Settings()).as_str())  # noqa: T201 - the command's output

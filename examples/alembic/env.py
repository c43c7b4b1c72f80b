"""Alembic's environment for tables that ambidex keeps: copy it beside your ``alembic.ini`` and name your models.

Run from this folder: ``alembic -x url=sqlite:///data.db revision --autogenerate -m "..."``, then the same with
``upgrade head``.
"""

from alembic import context
from models import MODELS
from sqlalchemy import create_engine, pool

import ambidex
from ambidex.migrations import include_object, prepare

config = context.config
url = context.get_x_argument(as_dictionary=True).get("url") or config.get_main_option("sqlalchemy.url")
if not url:
    raise SystemExit("name the database: alembic -x url=sqlite:///data.db ..., or sqlalchemy.url in alembic.ini")

options = {
    "target_metadata": ambidex.metadata(*MODELS),
    "include_object": include_object,  # other tables are not Alembic's to drop, ambidex's own among them
    "user_module_prefix": "ambidex.migrations.",
    "render_as_batch": True,  # SQLite changes a column by copying its table
}

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        prepare(connection)
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()

from django.db import migrations


class Migration(migrations.Migration):
    """Let the server tell what an UPDATE changed, which receivers ask for."""

    dependencies = [("shop", "0001_initial")]

    operations = [
        migrations.RunSQL(
            f"ALTER TABLE {table} REPLICA IDENTITY FULL",
            f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT",
        )
        for table in ("shop_order", "shop_orderitem")
    ]

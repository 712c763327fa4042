from django.db import migrations

from walex_django.operations import SetReplicaIdentity


class Migration(migrations.Migration):
    """Let the server tell what an UPDATE changed, which receivers ask for."""

    dependencies = [("shop", "0001_initial")]

    operations = [SetReplicaIdentity("Order"), SetReplicaIdentity("OrderItem")]

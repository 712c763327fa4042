from django.db import migrations

from walex_django.operations import SetReplicaIdentity


class Migration(migrations.Migration):
    """Set the replica identity to FULL, because receivers use the old values."""

    dependencies = [("shop", "0001_initial")]

    operations = [SetReplicaIdentity("Order"), SetReplicaIdentity("OrderItem")]

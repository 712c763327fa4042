from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("walex_django", "0004_status")]

    operations = [
        migrations.RenameField(
            model_name="listenerreport",
            old_name="in_hand_since",
            new_name="delivering_since",
        ),
    ]

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("walex_django", "0004_status")]

    operations = [
        migrations.RenameField(
            model_name="listenerreport",
            old_name="in_hand_since",
            new_name="delivering_since",
        ),
        migrations.AlterModelOptions(
            name="streamsetting",
            options={
                "verbose_name": "stream setting",
                "verbose_name_plural": "stream settings",
            },
        ),
        migrations.AlterField(
            model_name="checkpoint",
            name="confirmed",
            field=models.BigIntegerField(
                help_text="The last position confirmed to the server, if the listener shut down cleanly.",
                null=True,
                verbose_name="confirmed",
            ),
        ),
        migrations.AlterField(
            model_name="checkpoint",
            name="position",
            field=models.BigIntegerField(
                help_text="Position of the COMMIT of the last transaction that receivers finished.",
                verbose_name="position",
            ),
        ),
        migrations.AlterField(
            model_name="checkpoint",
            name="statistics_since",
            field=models.BigIntegerField(
                help_text="Start of the server's statistics for the slot, in microseconds since 1970.",
                null=True,
                verbose_name="statistics since",
            ),
        ),
        migrations.AlterField(
            model_name="checkpoint",
            name="timeline",
            field=models.BigIntegerField(
                help_text="The server's timeline, or 0 if the slot has not been read yet.",
                verbose_name="timeline",
            ),
        ),
        migrations.AlterField(
            model_name="listenerreport",
            name="backend_pid",
            field=models.IntegerField(null=True, verbose_name="PostgreSQL process"),
        ),
        migrations.AlterField(
            model_name="listenerreport",
            name="delivering_since",
            field=models.DateTimeField(
                help_text="Commit time of the transaction that is being delivered.",
                null=True,
                verbose_name="delivering since",
            ),
        ),
        migrations.AlterField(
            model_name="listenerreport",
            name="failures",
            field=models.BigIntegerField(
                default=0,
                help_text="Receiver calls that failed after all retries.",
                verbose_name="failures",
            ),
        ),
        migrations.AlterField(
            model_name="streamsample",
            name="lag",
            field=models.BigIntegerField(
                help_text="In bytes of WAL.", null=True, verbose_name="lag"
            ),
        ),
    ]

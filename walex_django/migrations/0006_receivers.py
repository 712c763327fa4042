from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("walex_django", "0005_plain_english")]

    operations = [
        migrations.AddField(
            model_name="listenerreport",
            name="failing",
            field=models.JSONField(
                default=list,
                help_text="Receivers that are being retried or whose circuit breaker is open.",
                verbose_name="failing receivers",
            ),
        ),
        migrations.AddField(
            model_name="parkedevent",
            name="dispatch_uid",
            field=models.TextField(
                blank=True,
                default="",
                help_text="The dispatch_uid that the receiver was connected with.",
                verbose_name="dispatch_uid",
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="parkedevent",
            name="is_ambiguous",
            field=models.BooleanField(
                default=False,
                help_text="Whether another receiver had the same name and no dispatch_uid.",
                verbose_name="ambiguous",
            ),
        ),
    ]

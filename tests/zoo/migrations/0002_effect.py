from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("zoo", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Effect",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("event_id", models.CharField(max_length=100)),
                ("label", models.TextField()),
            ],
            options={"db_table": "zoo_effect", "managed": False},
        ),
    ]

from django.db import models


class Entry(models.Model):
    worker = models.IntegerField()
    number = models.IntegerField()


class Total(models.Model):
    worker = models.IntegerField(primary_key=True)
    entries = models.IntegerField(default=0)

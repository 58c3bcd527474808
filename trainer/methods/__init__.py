"""The documented methods of ``Trainer`` that a program may override, by what they are about.

Each is a part of the class and uses what ``trainer.trainer.Trainer`` keeps: the program's objects as
attributes of the reference's names.
"""

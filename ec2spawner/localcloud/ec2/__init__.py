"""EC2's semantics for instances, volumes, snapshots, images and their tags, on plain records.

Takes a clock; knows neither HTTP nor moto nor processes nor files.
"""

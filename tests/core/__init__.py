"""Tests of the hub's core: plan, fleet, gateway, link, journal."""

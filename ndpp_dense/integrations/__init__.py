"""Translations between ND++ and the frameworks people train with; nothing here computes."""

"""Sweeps over the models of other libraries: does each convert rightly, or is it refused with a reason?"""

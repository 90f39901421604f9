"""Faults planted by the thousand: is each of them seen by a test?"""

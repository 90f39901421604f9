"""Mask bits under the microscope: many of them, through exact tests of chance."""

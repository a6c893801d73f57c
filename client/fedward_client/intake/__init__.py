"""Intake: files of the hospital in; a vault of cleaned instances and a catalogue of labels out."""

"""Continuous separation: windows, stitching, masking, beamforming, activity."""

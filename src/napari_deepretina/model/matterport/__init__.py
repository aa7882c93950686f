"""Matterport's Mask R-CNN with the numbers of Keras, so that its weights give its detections."""

"""Taking a hospital's patients out of a classifier that was trained by averaging: the same four steps, approximated."""

from fleke_lib.unlearn.classifier.hospitals import Exact, FedAvg, accuracy, breast_cancer, some_patients, whole_hospital

__all__ = ["Exact", "FedAvg", "accuracy", "breast_cancer", "some_patients", "whole_hospital"]

"""Unlearning of patients from a classifier that hospitals trained by federated averaging: the same four steps."""

from fleke_lib.unlearn.classifier.hospitals import Exact, FedAvg, accuracy, breast_cancer, some_patients, whole_hospital

__all__ = ["Exact", "FedAvg", "accuracy", "breast_cancer", "some_patients", "whole_hospital"]

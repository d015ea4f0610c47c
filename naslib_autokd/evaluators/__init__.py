"""Evaluators answer proposals with trials: ``kd.KDEvaluator`` by training a student against a teacher."""

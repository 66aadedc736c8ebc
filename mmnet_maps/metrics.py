"""Metrics of estimates against observations: R, RMSE, bias, ubRMSE."""

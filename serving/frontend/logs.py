"""The log files of a server, in the names and forms of TorchServe's: ts_log.log, model_log.log, access_log.log."""

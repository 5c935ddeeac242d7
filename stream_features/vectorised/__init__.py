"""The vectorised path: features of a whole history at once, the same bits as the scalar path gives one by one."""

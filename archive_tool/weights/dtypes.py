"""Element types of tensors: torch's names, and those of other formats."""

from __future__ import annotations

from typing import Final


def _table(text: str) -> dict[str, str]:
    return {key: value for key, _, value in (item.partition(":") for item in text.split())}


#: Bytes of an element, by torch's name of its type.
ITEM_SIZES: Final = {
    name: int(size)
    for name, size in _table(
        "float64:8 float32:4 float16:2 bfloat16:2 complex128:16 complex64:8 complex32:4 "
        "int64:8 int32:4 int16:2 int8:1 uint64:8 uint32:4 uint16:2 uint8:1 bool:1 "
        "float8_e4m3fn:1 float8_e5m2:1 qint8:1 quint8:1 qint32:4"
    ).items()
}
#: https://github.com/huggingface/safetensors, the format's own names.
SAFETENSORS: Final = _table(
    "F64:float64 F32:float32 F16:float16 BF16:bfloat16 C64:complex64 I64:int64 I32:int32 I16:int16 I8:int8 "
    "U64:uint64 U32:uint32 U16:uint16 U8:uint8 BOOL:bool F8_E4M3:float8_e4m3fn F8_E5M2:float8_e5m2"
)
#: The storage classes that checkpoints name, without "Storage".
STORAGES: Final = _table(
    "Double:float64 Float:float32 Half:float16 BFloat16:bfloat16 Long:int64 Int:int32 Short:int16 Char:int8 "
    "Byte:uint8 Bool:bool ComplexDouble:complex128 ComplexFloat:complex64 QInt8:qint8 QUInt8:quint8 QInt32:qint32"
)
#: ScalarType of torch's export schema, which counts differently from C++.
EXPORT: Final = _table(
    "1:uint8 2:int8 3:int16 4:int32 5:int64 6:float16 7:float32 8:float64 9:complex32 10:complex64 11:complex128 "
    "12:bool 13:bfloat16 28:uint16 29:float8_e4m3fn 30:float8_e5m2"
)
#: TensorProto.DataType of onnx.proto.
ONNX: Final = _table(
    "1:float32 2:uint8 3:int8 4:uint16 5:int16 6:int32 7:int64 9:bool 10:float16 11:float64 12:uint32 13:uint64 "
    "14:complex64 15:complex128 16:bfloat16 17:float8_e4m3fn 19:float8_e5m2"
)

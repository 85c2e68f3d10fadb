//! One value of an Arrow column, as JSON.
use anyhow::Result;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow::util::display::array_value_to_string;
use serde_json::{Value, json};

/// The value in `row` of `array`. Types without a JSON of their own (dates, decimals, bytes …) become text.
pub fn value(array: &ArrayRef, row: usize) -> Result<Value> {
    use DataType::*;
    if array.is_null(row) || matches!(array.data_type(), Null) {
        return Ok(Value::Null);
    }
    let one = || array.slice(row, 1);
    Ok(match array.data_type() {
        Boolean => array.as_boolean().value(row).into(),
        Int8 | Int16 | Int32 | Int64 => {
            arrow::compute::cast(&one(), &Int64)?.as_primitive::<Int64Type>().value(0).into()
        }
        UInt8 | UInt16 | UInt32 | UInt64 => {
            arrow::compute::cast(&one(), &UInt64)?.as_primitive::<UInt64Type>().value(0).into()
        }
        Float32 => {
            // As it is written, not with the digits of its f64.
            let value = array.as_primitive::<Float32Type>().value(row).to_string();
            value.parse::<f64>().map_or(Value::Null, |v| json!(v))
        }
        Float16 | Float64 => {
            json!(arrow::compute::cast(&one(), &Float64)?.as_primitive::<Float64Type>().value(0))
        }
        List(_) => values(&array.as_list::<i32>().value(row))?,
        LargeList(_) => values(&array.as_list::<i64>().value(row))?,
        FixedSizeList(..) => values(&array.as_fixed_size_list().value(row))?,
        Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let pairs = columns.map(|(field, column)| Ok((field.name().clone(), value(column, row)?)));
            Value::Object(pairs.collect::<Result<serde_json::Map<_, _>>>()?)
        }
        _ => array_value_to_string(array, row)?.into(),
    })
}

fn values(list: &ArrayRef) -> Result<Value> {
    Ok(Value::Array((0..list.len()).map(|row| value(list, row)).collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Float32Array, ListArray, StringArray, StructArray, UInt16Array};
    use arrow::datatypes::{Field, UInt16Type};
    use std::sync::Arc;

    #[test]
    fn nested_values() {
        let show = |array: ArrayRef| -> Vec<Value> { (0..array.len()).map(|i| value(&array, i).unwrap()).collect() };
        let lists = ListArray::from_iter_primitive::<UInt16Type, _, _>([Some(vec![Some(1), None]), None]);
        assert_eq!(show(Arc::new(lists)), [json!([1, null]), Value::Null]);
        assert_eq!(show(Arc::new(Float32Array::from(vec![0.1, f32::NAN]))), [json!(0.1), Value::Null]);
        assert_eq!(show(Arc::new(Date32Array::from(vec![0]))), [json!("1970-01-01")]);
        let ids: ArrayRef = Arc::new(UInt16Array::from(vec![7]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let field = |name: &str, kind| Arc::new(Field::new(name, kind, true));
        let both = StructArray::from(vec![(field("id", DataType::UInt16), ids), (field("n", DataType::Utf8), names)]);
        assert_eq!(show(Arc::new(both)), [json!({"id": 7, "n": "x"})]);
    }
}

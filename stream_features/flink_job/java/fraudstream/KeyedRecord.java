package fraudstream;

import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.connector.kinesis.sink.PartitionKeyGenerator;

/** A line of partition key, tab, record: the key goes where the key belongs, the record is what is put. */
public final class KeyedRecord implements PartitionKeyGenerator<String>, SerializationSchema<String> {
    private static final long serialVersionUID = 1L;

    @Override
    public String apply(String line) {
        return line.substring(0, line.indexOf('\t'));
    }

    @Override
    public byte[] serialize(String line) {
        return line.substring(line.indexOf('\t') + 1).getBytes(StandardCharsets.UTF_8);
    }
}

package fraudstream;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Base64;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.connector.kinesis.sink.shaded.software.amazon.kinesis.retrieval.KinesisClientRecord;
import org.apache.flink.connector.kinesis.source.serialization.KinesisDeserializationSchema;
import org.apache.flink.util.Collector;

/**
 * A user record as one line: shard, sequence number, sub-sequence number, arrival (epoch ms), payload (base64), with tabs
 * between them. The bytes stay whatever they are. The source has taken aggregates apart.
 */
public final class ArrivedSchema implements KinesisDeserializationSchema<String> {
    private static final long serialVersionUID = 1L;

    @Override
    public void deserialize(KinesisClientRecord record, String stream, String shardId, Collector<String> output)
            throws IOException {
        ByteBuffer data = record.data().duplicate();
        byte[] payload = new byte[data.remaining()];
        data.get(payload);
        output.collect(
                String.join(
                        "\t",
                        shardId,
                        record.sequenceNumber(),
                        Long.toString(record.subSequenceNumber()),
                        Long.toString(record.approximateArrivalTimestamp().toEpochMilli()),
                        Base64.getEncoder().encodeToString(payload)));
    }

    @Override
    public TypeInformation<String> getProducedType() {
        return Types.STRING;
    }
}

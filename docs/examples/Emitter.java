// A training loop without Smart Tuner's SDK that streams its metrics by itself: Java and the kafka-clients jar, nothing else.
//
//     java -cp 'libs/*' Emitter.java HOST:PORT smart-tuner.default RUN [STEPS]
//
// Each message is one MetricChunk (docs/schema.json), keyed by the run's name: Kafka's own partitioner (murmur2) puts it where
// the daemon looks. acks=all and idempotence are the client's defaults; a point that comes twice all the same is stored once,
// since (attempt, source, position) names it.

import java.security.SecureRandom;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Emitter {
    static final int POINTS_A_CHUNK = 50;

    final KafkaProducer<String, String> producer;
    final String topics;
    final String run;
    final String attempt = ulid(System.currentTimeMillis());
    final StringBuilder steps = new StringBuilder(), values = new StringBuilder(), times = new StringBuilder();
    long position = 0;  // of the next point in its source: rises by one a point and never repeats within an attempt
    int waiting = 0;

    Emitter(String bootstrap, String topics, String run) {
        this.producer = new KafkaProducer<>(
            Map.of("bootstrap.servers", bootstrap, "client.id", "emitter", "linger.ms", "20", "compression.type", "gzip"),
            new StringSerializer(), new StringSerializer());
        this.topics = topics;
        this.run = run;
    }

    /** One value of val_loss. Chunks of some tenths of a second to a second keep both ends quick. */
    void log(long step, double value) {
        String comma = waiting == 0 ? "" : ",";
        steps.append(comma).append(step);
        values.append(comma).append(number(value));
        times.append(comma).append(String.format(Locale.ROOT, "%.6f", System.currentTimeMillis() / 1e3));
        if (++waiting == POINTS_A_CHUNK) {
            flush();
        }
    }

    void flush() {
        if (waiting == 0) {
            return;
        }
        String body = "{\"v\":1,\"kind\":\"metrics\",\"run\":" + quoted(run) + ",\"attempt\":" + quoted(attempt)
            + ",\"source\":\"java\",\"seq\":" + position + ",\"series\":[{\"name\":\"val_loss\",\"steps\":[" + steps
            + "],\"values\":[" + values + "],\"times\":[" + times + "]}]}";
        producer.send(new ProducerRecord<>(topics + ".metrics", run, body), (sent, error) -> {
            if (error != null) {
                System.err.println("not sent: " + error);
            }
        });
        position += waiting;
        waiting = 0;
        steps.setLength(0);
        values.setLength(0);
        times.setLength(0);
    }

    /** The last word, after everything else has arrived: another topic keeps no order with the metrics. */
    void finish() throws ExecutionException, InterruptedException {
        flush();
        producer.flush();
        String body = "{\"v\":1,\"kind\":\"run\",\"run\":" + quoted(run) + ",\"attempt\":" + quoted(attempt)
            + ",\"event\":\"ended\",\"state\":\"finished\",\"seq\":" + position + ",\"time\":"
            + String.format(Locale.ROOT, "%.6f", System.currentTimeMillis() / 1e3) + "}";
        producer.send(new ProducerRecord<>(topics + ".runs", run, body)).get();
        producer.close();
    }

    /** JSON has no NaN and no infinity: they travel as words, which Java spells as the schema does. */
    static String number(double value) {
        return Double.isFinite(value) ? Double.toString(value) : "\"" + value + "\"";
    }

    static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char one : text.toCharArray()) {
            out.append(one == '"' || one == '\\' ? "\\" + one : one < ' ' ? String.format("\\u%04x", (int) one) : "" + one);
        }
        return out.append('"').toString();
    }

    /** Names one start of the job. Attempts of a run sort by their time, so that the newest is the last. */
    static String ulid(long milliseconds) {
        String digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        StringBuilder out = new StringBuilder();
        for (int shift = 45; shift >= 0; shift -= 5) {
            out.append(digits.charAt((int) (milliseconds >> shift) & 31));
        }
        SecureRandom random = new SecureRandom();
        for (int i = 0; i < 16; i++) {
            out.append(digits.charAt(random.nextInt(32)));
        }
        return out.toString();
    }

    public static void main(String[] arguments) throws Exception {
        Emitter emitter = new Emitter(arguments[0], arguments[1], arguments[2]);
        int steps = arguments.length > 3 ? Integer.parseInt(arguments[3]) : 200;
        for (int step = 0; step < steps; step++) {
            double loss = step == 3 ? Double.NaN : Math.max(0.2, 1.0 / (1 + step));  // here a model would learn
            emitter.log(step, loss);
        }
        emitter.finish();
        System.out.println(emitter.attempt);
    }
}
